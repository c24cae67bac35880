"""A tiny OWLv2 with random weights, saved as any; its 16 boxes stand on a grid, whatever it is shown."""

from pathlib import Path

import torch
from transformers import CLIPTokenizer, Owlv2Config, Owlv2ForObjectDetection, Owlv2ImageProcessorPil, Owlv2Processor

SIZE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def save_detector(folder: Path) -> Path:
    """Write model and processor; boxes are a quarter of the padded picture wide and high, centred on its quarters."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["!", *letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = CLIPTokenizer(vocabulary, [], pad_token="!", model_max_length=16)
    end = len(words) - 1
    text = SIZE | {"vocab_size": len(words), "bos_token_id": end - 1, "eos_token_id": end}
    config = Owlv2Config(text_config=text, vision_config=SIZE | {"image_size": 32, "patch_size": 8}, projection_dim=16)
    torch.manual_seed(0)
    model = Owlv2ForObjectDetection(config)
    torch.nn.init.zeros_(model.box_head.dense2.weight)
    torch.nn.init.zeros_(model.box_head.dense2.bias)
    model.save_pretrained(folder)
    Owlv2Processor(Owlv2ImageProcessorPil(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    return folder
