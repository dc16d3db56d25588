"""How files are found, unpacked and read as text and rows, for every source."""
