"""Readers: scans in their publishers' own layouts become episodes.

Each reader finds pictures, lens, poses and objects and writes nothing; ``scan.py`` crops and writes for all of them.
"""

from pathlib import Path

from v4s_lib.data.readers import arkitscenes, nerfstudio, realestate10k, scannetpp
from v4s_lib.data.readers.scan import Scan

LAYOUTS = {
    "scannetpp": scannetpp.read_iphone,
    "scannetpp-dslr": scannetpp.read_dslr,
    "arkitscenes": arkitscenes.read_capture,
    "dl3dv": nerfstudio.read_dl3dv,
    "nerfstudio": nerfstudio.read_capture,
    "realestate10k": realestate10k.read_clip,
}


def read_scan(layout: str, folder: str | Path) -> Scan:
    """Read the cameras and objects of one scan; its pictures stay where they are until ``write_scan``.

    Args:
        layout: one of ``LAYOUTS``.
        folder: of one scan, as its publisher unpacks it.

    Raises:
        FileNotFoundError, ValueError: a part is missing, or is not as the layout says.
    """
    folder = Path(folder)
    if layout not in LAYOUTS:
        raise ValueError(f"expected a layout out of {', '.join(LAYOUTS)}, got {layout!r}: choose one of them")
    if not folder.is_dir():
        raise FileNotFoundError(f"expected the folder of a scan at {folder}, got nothing there: check the path")
    return LAYOUTS[layout](folder)
