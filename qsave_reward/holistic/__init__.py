"""A scorer from three separate encoders and a language model: the architecture of AIGVEval."""
