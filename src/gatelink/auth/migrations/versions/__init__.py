"""One file a version. What was released is never changed; a new version is a new file."""
