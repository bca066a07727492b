"""transformers' universal assisted generation on a pair of models, counted: the comparison in speculative.py."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.generation import candidate_generator


def measure(target: Path, draft: Path, prompts: list[str], count: int, new_tokens: int) -> dict[str, Any]:
    """Greedy texts with `count` tokens of the draft's own a round and no confidence threshold.

    `target` and `draft` are Hugging Face folders. Returns the counts of edgekit's `DraftStats` (drafted, accepted,
    calls, tokens) and the texts as lists of ids.
    """
    models = [AutoModelForCausalLM.from_pretrained(path, torch_dtype=torch.float32).eval() for path in (target, draft)]
    tokenizers = [AutoTokenizer.from_pretrained(path, trust_remote_code=True) for path in (target, draft)]
    models[1].generation_config.num_assistant_tokens = count
    models[1].generation_config.num_assistant_tokens_schedule = "constant"
    models[1].generation_config.assistant_confidence_threshold = 0.0
    counts = {"drafted": 0, "accepted": 0, "calls": 0, "tokens": 0, "texts": []}
    cls = candidate_generator.AssistedCandidateGeneratorDifferentTokenizers
    drafted, matched, called = cls.get_candidates, cls.update_candidate_strategy, type(models[0]).forward

    def get_candidates(self: Any, input_ids: Any) -> Any:
        candidates = drafted(self, input_ids)
        counts["drafted"] += candidates[0].shape[1] - input_ids.shape[1]
        return candidates

    def update_candidate_strategy(self: Any, input_ids: Any, scores: Any, num_matches: int) -> Any:
        counts["accepted"] += int(num_matches)
        return matched(self, input_ids, scores, num_matches)

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        counts["calls"] += self is models[0]
        return called(self, *args, **kwargs)

    cls.get_candidates, cls.update_candidate_strategy = get_candidates, update_candidate_strategy
    type(models[0]).forward = forward
    try:
        for prompt in prompts:
            ids = torch.tensor([tokenizers[0](prompt)["input_ids"]])
            with torch.inference_mode():
                output = models[0].generate(
                    ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False,
                    assistant_model=models[1], tokenizer=tokenizers[0], assistant_tokenizer=tokenizers[1],
                    repetition_penalty=1.0,
                )  # fmt: skip
            counts["texts"].append(output[0, ids.shape[1] :].tolist())
            counts["tokens"] += output.shape[1] - ids.shape[1]
    finally:
        cls.get_candidates, cls.update_candidate_strategy = drafted, matched
        type(models[0]).forward = called
    return counts
