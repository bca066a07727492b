"""The text that artefacts are compared on by default. Written for edgekit in plain words, so that it suits a model of
stories as well as one of textbooks, and a small vocabulary can encode it."""

CALIBRATION = """\
Once upon a time there was a small red boat. It lived in a quiet harbor between two old fishing boats. Every morning \
the sun came up over the hill, and the little boat could see the whole bay. "I want to go out there one day," it said.

The old boats laughed. "You are too small," said one. "The waves are big and the wind is strong." But the little boat \
did not listen. It watched how the birds used the wind, and it learned.

One day a girl named Anna came down to the harbor with her father. She had a blue hat and a bag with bread and apples. \
"Can we take this one?" she asked. Her father looked at the red boat. He touched the wood with his hand and smiled. \
"Yes," he said, "but we must be back before dark."

They went out slowly. The water was green near the land and dark blue further away. Anna saw three fish jump, one \
after another. She counted them: one, two, three! Then the wind grew stronger, and the boat began to run over the \
waves. It was not afraid at all.

Water is made of very small parts that are always moving. When it gets warm, they move faster, and some of them leave \
the water and rise into the air. High above the ground the air is cold, so they come together again and make clouds. \
When the drops are heavy enough, they fall as rain. In this way the same water goes around the world again and again.

If a train goes 60 miles in 1 hour, how far does it go in 3 hours? It goes 60 miles each hour, so we add 60 three \
times. The answer is 180 miles.

In the evening the red boat was back between the two old ones. They did not laugh any more. "What was it like?" they \
asked. The little boat thought for a while. "It was bigger than I had dreamed," it said, "and I was not too small."
"""

AWKWARD = (
    "Hello, World!",
    "  two  spaces,\tand a tab\n\n\nthree lines",
    "ALL CAPS, MixedCase and iPhone",
    "1,234.56 + 78% = ?",
    "don't, it's, we'll; “quotes” – dashes…",
    "naïve café, Straße, e\u0301 and é",
    "if (x == 1) { return y[0]; }",
    "日本語 и русский",
    "🙂 👩‍👩‍👧",
    " ",
)
"""Texts on which tokenizers tend to disagree."""
