"""Heavy sums with closed derivatives: messages of edges, moments of graphs."""
