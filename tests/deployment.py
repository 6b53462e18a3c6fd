"""What the suites of export/serving/ share."""

from pathlib import Path

SERVING = Path(__file__).resolve().parent.parent / "export" / "serving"
MODEL = "descargan"
REST_PORT = 8501
