"""Video4Spatial (arXiv 2512.03040), reproduced: a thin library behind the notebooks.

Importing this package imports nothing heavy: each part is imported by name when it is needed.
"""

__version__ = "0.1.0"
