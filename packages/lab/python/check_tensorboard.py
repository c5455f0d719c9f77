"""Reads event files with TensorBoard and prints them as JSON.

    python packages/lab/python/check_tensorboard.py RUN_FOLDER/logs        (pip install tensorboard)

Every record's checksums are verified; a damaged file ends the program with code 1.
"""

import glob
import json
import os
import struct
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c


def verify(path):
    """Counts the records of a file, checking both checksums of each (TensorBoard itself stops silently at a bad one)."""
    count = 0
    with open(path, "rb") as file:
        while header := file.read(12):
            (length,), (crc,) = struct.unpack("<Q", header[:8]), struct.unpack("<I", header[8:])
            data, footer = file.read(length), file.read(4)
            for what, expected in ((header[:8], crc), (data, struct.unpack("<I", footer)[0])):
                if masked_crc32c(what) != expected:
                    sys.exit(f"Expected checksum {expected} for record {count} of {path} but received {masked_crc32c(what)}.")
            count += 1
    return count


def main(folder):
    files = sorted(glob.glob(os.path.join(folder, "events.out.tfevents.*")))
    if not files:
        sys.exit(f"Expected event files in {folder} but found none.")
    records = sum(verify(path) for path in files)
    board = EventAccumulator(folder, size_guidance={"scalars": 0, "images": 0, "tensors": 0}).Reload()
    tags = board.Tags()
    images = {tag: [[i.step, i.width, i.height, len(i.encoded_image_string)] for i in board.Images(tag)] for tag in tags["images"]}
    texts = {
        tag: [[t.step, t.tensor_proto.string_val[0].decode()] for t in board.Tensors(tag)]
        for tag in tags["tensors"]
    }
    scalars = {tag: [[s.step, s.value] for s in board.Scalars(tag)] for tag in tags["scalars"]}
    print(json.dumps({"files": len(files), "records": records, "scalars": scalars, "images": images, "texts": texts}))


if __name__ == "__main__":
    main(sys.argv[1])
