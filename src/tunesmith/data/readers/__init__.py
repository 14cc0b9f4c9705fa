"""One file per format: bytes -> Table. They know nothing of shapes, except that some JSON nestings are well known."""
