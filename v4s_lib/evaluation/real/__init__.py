"""Measures for scans whose truth is only estimated, and the classical baseline (DESIGN §7)."""
