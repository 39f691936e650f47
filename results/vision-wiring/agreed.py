"""Of each picture's captions the one that agrees best with the others, in COCO's layout.

    python agreed.py coco/images/captions.json agreed.json

Agreement is CIDEr-D against all captions of the picture.
"""

import json
import sys

from excitor.evaluate.captions.scores import score_captions
from excitor.evaluate.captions.tokenizer import tokenize


source, target = sys.argv[1:]
with open(source, encoding="utf-8") as file:
    coco = json.load(file)
captions: dict[int, list] = {}
for annotation in coco["annotations"]:
    captions.setdefault(annotation["image_id"], []).append(annotation)
references = {image: [tokenize(each["caption"]) for each in own] for image, own in captions.items()}
columns = [
    score_captions({image: own[number] for image, own in references.items()}, references)["per_image"]
    for number in range(min(map(len, references.values())))
]
coco["annotations"] = [
    own[max(range(len(columns)), key=lambda number: columns[number][image]["CIDEr"])]
    for image, own in captions.items()
]
with open(target, "w", encoding="utf-8") as file:
    json.dump(coco, file)
