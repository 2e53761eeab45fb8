"""Pools of paraphrased instructions, from a language model or a file."""
