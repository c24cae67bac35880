"""What a pipeline can be asked for: every input is looked at before anything is computed."""

import math
from collections.abc import Sequence

from torch import Tensor

from v4s_lib.model.encoding import check_codec, latent_shape, pixels_a_latent
from v4s_lib.model.text import tokenize
from v4s_lib.model.text_encoder import token_ids
from v4s_lib.worlds.cameras import check_rigid

FRAMES = 33  # generated where no camera path says how many: start frame, 28 moving ones, 4 of the box tail; our choice


class InputMixin:
    """The part of the pipeline that refuses, in one sentence, what it can not use."""

    def check_inputs(
        self,
        context_video: Tensor | None,
        start_frame: Tensor,
        camera_path: Tensor | None,
        instruction: str | list[str] | None = None,
        num_frames: int | None = None,
        num_context_latents: int = 16,
        num_inference_steps: int = 10,
        find_temperature: float = 0.0,
    ) -> None:
        """Raise ``ValueError`` with one sentence for inputs that can not be used; nothing has been computed yet."""
        self._check_frames("start_frame", start_frame, start_frame.shape[1:3])
        if context_video is not None:
            self._check_frames("context_video", context_video, start_frame.shape[1:3])
        self._check_codec(start_frame)
        frames = FRAMES if num_frames is None else num_frames
        if camera_path is not None:
            self._check_path(camera_path, len(start_frame), num_frames)
            frames = camera_path.shape[1]
        if frames % 4 != 1 or frames < 5:
            raise ValueError(f"expected num_frames of 4k+1, k > 0, got {frames}: ask for one more than a multiple of 4")
        self._check_instruction(instruction, len(start_frame), camera_path is not None)
        length = self._context_length(context_video, num_context_latents)
        if not 0 <= num_context_latents <= length:
            raise ValueError(
                f"expected 0 to {length} context latents (context_video holds {length} of 4 frames each), "
                f"got {num_context_latents}: ask for fewer or use a longer video"
            )
        last, limit = length + self.config.gap + frames // 4, self.transformer.config.rope_max_seq_len
        if last >= limit:
            raise ValueError(
                f"expected time indices below {limit} for context video, gap and path, got up to {last}: shorten them"
            )
        if num_inference_steps < 1:
            raise ValueError(f"expected num_inference_steps of 1 or more, got {num_inference_steps}: ask for some")
        if not 0 <= find_temperature < math.inf:
            raise ValueError(f"expected a find_temperature of 0 or more, got {find_temperature}: 0 draws nothing")

    def _check_frames(self, name: str, frames: Tensor, size: tuple[int, int]) -> None:
        """Frames (N, H, W, 3), floats in 0..1, of the model's size or, where it has none, of ``size``."""
        if frames.ndim != 4 or frames.shape[-1] != 3 or len(frames) == 0:
            raise ValueError(f"expected {name} of shape (N, H, W, 3), got {_shape(frames)}: pass RGB frames")
        unit, fixed = self.pixels_a_token, self.fixed_size
        size = fixed or size
        if tuple(frames.shape[1:3]) != tuple(size):
            raise ValueError(
                f"expected {name} of {size[0]}x{size[1]} pixels (H x W), got shape {_shape(frames)}: resize it"
            )
        if size[0] % unit[0] or size[1] % unit[1]:
            raise ValueError(
                f"expected {name} in multiples of {unit[0]}x{unit[1]} pixels (H x W), "
                f"got shape {_shape(frames)}: resize it"
            )
        low, high = frames.min().item(), frames.max().item()
        if not (frames.is_floating_point() and low >= 0 and high <= 1):
            raise ValueError(
                f"expected {name} as floats in 0..1, got {frames.dtype} from {low} to {high}: "
                "divide 8-bit frames by 255"
            )

    @property
    def pixels_a_token(self) -> tuple[int, int]:
        """Height and width in pixels of the square that one token covers."""
        rows, columns = self.transformer.config.patch_size[1:]
        side = pixels_a_latent(self.codec)
        return rows * side, columns * side

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        """Height and width in pixels of the only frames that the model takes, or None."""
        tokens = self.transformer.config.position_size
        if tokens is None:
            return None
        unit = self.pixels_a_token
        return tokens[0] * unit[0], tokens[1] * unit[1]

    def _check_codec(self, start_frame: Tensor) -> None:
        check_codec(self.codec)
        channels, expected = latent_shape(self.codec, *start_frame.shape[1:3])[0], self.transformer.config.in_channels
        if channels != expected:
            raise ValueError(
                f"expected a codec with latents of {expected} channels, got {channels}: use the one of the training"
            )

    def _check_path(self, camera_path: Tensor, starts: int, num_frames: int | None) -> None:
        frames = camera_path.shape[1] if camera_path.ndim == 4 else 0
        if frames % 4 != 1 or frames < 5:
            raise ValueError(
                f"expected camera_path of shape (M, 4k+1, 4, 4), k > 0, got {_shape(camera_path)}: give that many poses"
            )
        if len(camera_path) != starts:
            raise ValueError(
                f"expected a start_frame for each camera_path, got {starts} and {len(camera_path)}: "
                "pass as many of both"
            )
        if num_frames not in (None, frames):
            raise ValueError(
                f"expected a camera_path of num_frames poses, got {frames} and {num_frames}: leave num_frames out"
            )
        check_rigid(camera_path.float(), "camera_path")

    def _check_instruction(self, instruction: str | list[str] | None, starts: int, has_path: bool) -> None:
        config = self.transformer.config
        if config.text_dim is not None and config.vocabulary is None:
            self._check_text_encoder()
        if instruction is None:
            if not has_path:
                raise ValueError("expected an instruction, a camera_path or both, got neither: pass one")
            return
        if config.text_dim is None:
            raise ValueError("expected no instruction for a model without a vocabulary, got one: pass a camera_path")
        sentences = [instruction] if isinstance(instruction, str) else list(instruction)
        if len(sentences) != starts and not isinstance(instruction, str):
            raise ValueError(
                f"expected an instruction for each start_frame and camera_path, got {len(sentences)} and {starts}: "
                "pass as many of all, or one for all"
            )
        if not all(sentence.strip() for sentence in sentences):
            raise ValueError("expected an instruction in words, got an empty one: say what to do, or pass None")
        self._check_words(sentences)

    def _check_words(self, sentences: Sequence[str]) -> None:
        if self.transformer.config.vocabulary is not None:
            tokenize(sentences, self.transformer.config.vocabulary)
            return
        for sentence in sentences:
            token_ids(self.tokenizer, sentence, self.config.text_tokens)

    def _check_text_encoder(self) -> None:
        missing = [name for name in ("text_encoder", "tokenizer") if getattr(self, name) is None]
        if missing:
            raise ValueError(
                f"expected text_encoder and tokenizer for a model that reads sentences, got no {missing[0]}: "
                "load both with load_text_encoder"
            )
        width, expected = self.text_encoder.config.d_model, self.transformer.config.text_dim
        if width != expected:
            raise ValueError(
                f"expected a text_encoder with embeddings of {expected} values, got {width}: "
                "use the one of the training"
            )

    def _context_length(self, context_video: Tensor | None, num_context_latents: int) -> int:
        """Latents of the context video; without one, those of the noise that stands for it."""
        if context_video is None or num_context_latents == 0:
            return max(num_context_latents, 0)
        return (len(context_video) - 1) // 4 + 1


def _shape(value: Tensor) -> tuple[int, ...]:
    return tuple(value.shape)
