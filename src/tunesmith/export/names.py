"""What the files beside an exported model are called."""

CARD = "README.md"
MARK = "verification.json"  # what was found out about an export; without it a folder is none
MATRIX = "importance.gguf"
MODELFILE = "Modelfile"
