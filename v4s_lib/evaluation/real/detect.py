"""What stands in the middle of this frame, in free words? An open-vocabulary detector as the judge of real frames.

It takes the place of ``ObjectReader``, which knows the words and the looks of rendered rooms alone. Any model of
transformers for zero-shot detection can; OWLv2 is the one that the tests load.
"""

from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

from v4s_lib.data.boxes import is_centred
from v4s_lib.evaluation.real.reconstruct import pixels


class Detector:
    """A detector from a folder with a model and its processor, as ``save_pretrained`` writes them, on a device."""

    def __init__(self, folder: str | Path, device: str | torch.device = "cpu") -> None:
        if not (Path(folder) / "config.json").is_file():
            raise FileNotFoundError(f"expected a detector in {folder}, got no config.json: download one, such as OWLv2")
        self.processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
        model = AutoModelForZeroShotObjectDetection.from_pretrained(folder, local_files_only=True)
        self.model = model.eval().to(device)

    def score(self, frames: Tensor, labels: list[str]) -> Tensor:
        """How sure (N,) the detector is that the object of its label is centred in each frame (N, H, W, 3) in 0..1.

        That is its best score for a box that is large enough and near the middle, by the rule of ``is_centred``; 0 if
        no box is.
        """
        if frames.dim() != 4 or frames.shape[-1] != 3 or len(frames) != len(labels):
            raise ValueError(
                f"expected frames (N, H, W, 3) and a label for each, got {tuple(frames.shape)} and {len(labels)} "
                "labels: match them"
            )
        return torch.tensor([self._score_one(frame, label) for frame, label in zip(frames, labels, strict=True)])

    @torch.no_grad()
    def _score_one(self, frame: Tensor, label: str) -> float:
        height, width = frame.shape[:2]
        inputs = self.processor(images=pixels(frame), text=[[label]], return_tensors="pt").to(self.model.device)
        outputs = self.model(**inputs)
        (boxes,) = self.processor.post_process_grounded_object_detection(
            outputs, threshold=0.0, target_sizes=[(height, width)], text_labels=[[label]]
        )
        row, column = torch.arange(height)[:, None] + 0.5, torch.arange(width)[None] + 0.5
        for best in boxes["scores"].argsort(descending=True):
            left, top, right, bottom = boxes["boxes"][best].tolist()
            if is_centred((row >= top) & (row <= bottom) & (column >= left) & (column <= right)):
                return boxes["scores"][best].item()
        return 0.0
