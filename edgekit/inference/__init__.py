"""From a prompt to text: the runtime contract, the sampler, the loop, scoring, threads, speculative decoding."""
