"""The content-addressed cache of a node: models that were fetched once are fetched by the next pod from here.

It has no credentials and no say in who may read what: the artifact store is asked with the client's own token before
one byte is given. See docs/adr/0013.
"""
