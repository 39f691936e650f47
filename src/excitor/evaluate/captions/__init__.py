"""BLEU, ROUGE-L and CIDEr-D of image captions, equal to those of coco-caption but without Java."""
