"""Measures, judges, baselines and experiments: what a generated video is worth."""
