"""What a model may reach for while it answers: the web, a page of it, the user's own documents.

toolbox    the interface, and one request's box: results kept within it
toolset    the tools that the catalog configures, for all requests of one process
web_search, web_fetch, documents      one file a tool
guard, page    where fetch may connect, and what it makes of a page
fake       tools that a test owns
"""
