"""Viewing: contact sheets, plots, a camera driver, exercises, and the runner of the notebooks."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # of the checkout: where a notebook's relative folders start
