"""The intermediate representation: a graph of operators with facts about its values."""
