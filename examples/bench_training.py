"""Training throughput of edgekit and Hugging Face's Trainer: same model, data, batch and precision, in one run.

    python examples/bench_training.py                      # 6 layers, 8,064 rows, 16 blocks of 512, bf16
    python examples/bench_training.py --layers 12 --block 1024 --batch 8 --precision fp32

Both train a Llama of hidden size 256 from the same weights on the same blocks, with fused AdamW and clipping, in turns.
A step is everything from one optimizer step to the next. The text is Python's manual, so only
`pip install 'edgekit-lm[train,torch]'` is needed.
"""

import argparse
import statistics
import tempfile
import time

import numpy as np
import torch
import transformers
from accelerate.state import AcceleratorState

from edgekit.training import data, hf_folder, loop, recipe
from edgekit.training.model import Llama, flops_per_token, initialize, parameters
from edgekit.training.speed import peak

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def make_recipe(args, folder, steps):
    """The run as a recipe, with the byte tokenizer and an embedding padded to `--rows`."""
    return recipe.from_dict({
        "name": "bench",
        "model": {"num_hidden_layers": args.layers, "max_position_embeddings": args.block, "vocab_size": args.rows,
                  "pad_vocab_multiple": 1},
        "tokenizer": {"vocabulary": "bytes"},
        "data": {"block_size": args.block, "sources": [{"builtin": "python"}], "cache": f"{folder}/cache"},
        "training": {"per_device_train_batch_size": args.batch, "max_train_steps": steps, "compile": args.compile},
        "optimizer": {"learning_rate": 1e-3},
        "schedule": {"kind": "constant"},
        "precision": {"mixed_precision": {"fp32": "no"}.get(args.precision, args.precision),
                      "fp32_norms": True, "fp32_layers": args.fp32_layers},
        "saving": {"output": f"{folder}/run", "logging_steps": 1000},
    })  # fmt: skip


def edgekit_steps(args, folder):
    """Seconds of each step except the first."""
    times = []
    with tempfile.TemporaryDirectory(dir=folder) as run:
        plan = make_recipe(args, folder, args.steps)
        plan = recipe.from_dict(plan.to_dict() | {"saving": {"output": run, "logging_steps": 1000}})
        loop.train(plan, meter=lambda what, *_, **__: times.append(time.perf_counter()) if what == "training" else None)
    return np.diff(times).tolist()


class Blocks(torch.utils.data.Dataset):
    def __init__(self, args):
        rng = np.random.default_rng(0)
        self.ids = torch.from_numpy(rng.integers(0, 256, (args.batch * args.steps, args.block)))

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        return {"input_ids": self.ids[index], "labels": self.ids[index]}


class Clock(transformers.TrainerCallback):
    def __init__(self):
        self.times = []

    def on_step_end(self, *_, **__):
        self.times.append(time.perf_counter())


def trainer_steps(args, folder, config):
    """The same for transformers' Trainer with its fastest settings: SDPA, fused AdamW, no cache, no logging."""
    values = {k: v for k, v in config.to_dict().items() if k not in ("architectures", "model_type")}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**values, use_cache=False))
    source = Llama(config)
    initialize(source, 0.02, 42)
    model.load_state_dict(source.state_dict())
    settings = transformers.TrainingArguments(
        output_dir=f"{folder}/trainer", per_device_train_batch_size=args.batch, max_steps=args.steps,
        learning_rate=1e-3, weight_decay=0.01, adam_beta2=0.95, max_grad_norm=1.0,
        lr_scheduler_type="constant", optim="adamw_torch_fused",
        bf16=args.precision == "bf16", fp16=args.precision == "fp16", use_cpu=not torch.cuda.is_available(),
        torch_compile=args.compile, report_to=[], save_strategy="no", logging_steps=10_000, disable_tqdm=True,
    )  # fmt: skip
    clock = Clock()
    transformers.Trainer(model=model, args=settings, train_dataset=Blocks(args), callbacks=[clock]).train()
    return np.diff(clock.times).tolist()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--rows", type=int, default=8064, help="rows of the embedding")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--block", type=int, default=512)
    parser.add_argument("--steps", type=int, default=5, help="steps of each program in a round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--precision", choices=DTYPES, default="bf16")
    parser.add_argument("--fp32-layers", type=int, default=0, help="edgekit only: first layers in float32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--compile", action="store_true", help="torch.compile both")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    transformers.logging.set_verbosity_error()
    tokens = args.batch * args.block
    with tempfile.TemporaryDirectory() as folder:
        plan = make_recipe(args, folder, args.steps)
        config = hf_folder.config_for(plan, data.vocabulary("bytes"))
        seconds = {"edgekit": [], "Trainer": []}
        for _ in range(args.rounds):
            seconds["Trainer"] += trainer_steps(args, folder, config)
            AcceleratorState._reset_state()  # both programs set the precision, each in its own way
            seconds["edgekit"] += edgekit_steps(args, folder)
            AcceleratorState._reset_state()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    limit = peak(device, DTYPES[args.precision])
    print(
        f"{parameters(config):,} parameters, {args.batch} blocks of {args.block}, {args.precision}, "
        f"{torch.cuda.get_device_name() if device.type == 'cuda' else f'{args.threads} CPU threads'}"
        f"{', compiled' if args.compile else ''}; torch {torch.__version__}, transformers {transformers.__version__}"
    )
    for name, times in seconds.items():
        median, best = tokens / statistics.median(times), tokens / min(times)
        used = f" · MFU {100 * median * flops_per_token(config, args.block) / limit:.0f} %" if limit else ""
        print(f"{name:<8} {median:>9,.0f} tokens/s (median of {len(times)} steps), {best:,.0f} at best{used}")
    ratio = statistics.median(seconds["Trainer"]) / statistics.median(seconds["edgekit"])
    print(f"edgekit is {ratio:.2f} times as fast ({min(seconds['Trainer']) / min(seconds['edgekit']):.2f} at best)")


if __name__ == "__main__":
    main()
