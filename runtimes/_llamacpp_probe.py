"""Opens a GGUF file in llama.cpp and feeds it a token: `python -m edgekit.runtimes._llamacpp_probe FILE`.

If llama.cpp aborts, this process ends and not the one that asked. An error that llama.cpp reports is none here: the
caller meets it again, and has a sentence for it.
"""

import os
import sys
from pathlib import Path


def main(path: Path) -> None:
    os.environ["GGML_NO_BACKTRACE"] = "1"  # llama.cpp would start a debugger
    from edgekit.errors import EdgekitError
    from edgekit.formats.gguf import GGUFFile
    from edgekit.runtimes.llamacpp import LlamaCppRuntime
    from edgekit.settings import Running

    try:
        runtime = LlamaCppRuntime(GGUFFile(path), Running(threads=1), probed=True)
        runtime.forward([0])
        runtime.own_tokenizer().encode("Once upon a time, 12 cats.\n")
    except EdgekitError:
        return


if __name__ == "__main__":
    main(Path(sys.argv[1]))
