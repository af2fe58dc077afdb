"""Fuzz targets: `python -m fuzz.fuzz_frames --seconds 60`. A target's first line is what must hold for any bytes."""
