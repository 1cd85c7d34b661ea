"""HTTP: connections and bodies that are bounded, the endpoints, and the process that serves them."""
