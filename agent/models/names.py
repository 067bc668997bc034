"""Names that networks share: the categories of COCO and its keypoints, in their published order."""

from __future__ import annotations

_COCO = """\
person; bicycle; car; motorcycle; airplane; bus; train; truck; boat; traffic light; fire hydrant; stop sign;
parking meter; bench; bird; cat; dog; horse; sheep; cow; elephant; bear; zebra; giraffe; backpack; umbrella;
handbag; tie; suitcase; frisbee; skis; snowboard; sports ball; kite; baseball bat; baseball glove; skateboard;
surfboard; tennis racket; bottle; wine glass; cup; fork; knife; spoon; bowl; banana; apple; sandwich; orange;
broccoli; carrot; hot dog; pizza; donut; cake; chair; couch; potted plant; bed; dining table; toilet; tv;
laptop; mouse; remote; keyboard; cell phone; microwave; oven; toaster; sink; refrigerator; book; clock; vase;
scissors; teddy bear; hair drier; toothbrush"""

COCO_80 = tuple(" ".join(_COCO.split()).split("; "))
"""The 80 categories that have pictures."""

_UNUSED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
"""Of COCO's 90 category numbers, those without pictures."""


def coco_90() -> list[str]:
    """Return names for COCO's category numbers 1 to 90; `unused 12` and so on for those without pictures."""
    names = iter(COCO_80)
    return [f"unused {number}" if number in _UNUSED else next(names) for number in range(1, 91)]


BODY_17 = (
    "nose",
    "left_eye",
    "right_eye",
    "left_ear",
    "right_ear",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
)
"""COCO's keypoints of a person."""

FACE_6 = ("right_eye", "left_eye", "nose", "mouth", "right_ear", "left_ear")
"""BlazeFace's keypoints, right and left of the person."""


def keypoint_names(count: int) -> list[str]:
    """Return names for that many keypoints."""
    return list(BODY_17) if count == len(BODY_17) else [f"point {index}" for index in range(count)]
