"""Where the tests' files are."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
COCO_SSD = REPOSITORY / "config/models/coco-ssd"
CLIP = REPOSITORY / "config/demo/clip.mp4"
CLIP_FRAMES = 131
MODELS = REPOSITORY / "tests/assets/models"
NETWORKS = REPOSITORY / "tests/assets/networks"
BROKEN_INT8 = REPOSITORY / "tests/assets/cocossd_int8_pc_u8s8.onnx"
SILERO_VAD = REPOSITORY / "config/models/silero-vad"
SPEECH = REPOSITORY / "config/demo/speech.wav"
WATCH_GRU = REPOSITORY / "config/models/watch-gru"
MOTION = REPOSITORY / "config/demo/watch.csv"
