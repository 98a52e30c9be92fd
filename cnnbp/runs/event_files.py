"""TensorBoard's event files: a run that was continued many times keeps few of them."""

import struct
from pathlib import Path

from cnnbp.files import replacing

PATTERN = "events.out.tfevents.*"
# what the test logs has a file of its own, with this suffix
TEST = ".test"
# the length of a record stands before it with its checksum, and another checksum after it
LENGTH, HEADER, FOOTER = struct.Struct("<Q"), 12, 4


def merge_event_files(directory: Path) -> None:
    """Join the event files that earlier processes of a run left, in the order TensorBoard reads.

    After a kill at any moment the next call ends it: points that then stand there twice are dropped
    by TensorBoard, as each process first writes from which step on it begins anew.
    """
    files = sorted(path for path in directory.glob(PATTERN) if path.suffix != TEST)
    if len(files) < 2:
        return
    with replacing(files[0], "wb") as merged:
        for path in files:
            content = path.read_bytes()
            merged.write(content[: _whole_records(content)])
    for path in files[1:]:
        path.unlink()


def remove_event_files(directory: Path) -> None:
    """Remove what earlier processes of a run wrote that had come to no checkpoint."""
    for path in directory.glob(PATTERN):
        path.unlink()


def _whole_records(content: bytes) -> int:
    """How many bytes the whole records take: a killed process may have left a part of one."""
    end = 0
    while end + HEADER <= len(content):
        (length,) = LENGTH.unpack_from(content, end)
        following = end + HEADER + length + FOOTER
        # no event is empty; a power cut may leave zeros
        if length == 0 or following > len(content):
            break
        end = following
    return end
