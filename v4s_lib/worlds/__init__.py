"""Worlds whose truth is known: procedural scenes, a ray caster, camera paths."""
