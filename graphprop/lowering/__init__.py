"""From a network with rules to the graph of its explainer, in the form that a target prints."""
