"""One file a version. A released file is never changed; a new version is a new file."""
