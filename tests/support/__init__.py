"""What tests share: cases, references, oracles, random networks, and hostile files."""
