"""Fuzz targets: `python -m fuzz.fuzz_frames --seconds 60`. The first line of a target is its promise for any bytes."""
