"""How an answer is made and served: gateway, fusion, pipeline, command line."""
