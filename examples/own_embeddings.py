"""A dictionary of sentence embeddings, each labelled by its sentence: `itda.fit` on any matrix.

The embeddings are TF-IDF followed by an SVD, so that nothing has to be downloaded (pip install scikit-learn). Those of
a sentence encoder take their place: all that is needed is a matrix with one row for each text.
"""

import re
from pydoc_data.topics import topics

import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

import itda

# Sentences of Python's reference, which comes with Python.
text = " ".join(topics[name] for name in sorted(topics))
sentences = sorted({" ".join(found.split()) for found in re.findall(r"[A-Z][^.\n*|]{40,120}(?:\n[^.\n*|]+)?\.", text)})
embed = TfidfVectorizer(stop_words="english", min_df=2)
reduce = TruncatedSVD(48, random_state=0)
embeddings = reduce.fit_transform(embed.fit_transform(sentences))

# Rows that come first become atoms first, so sorted rows are shuffled, with their labels.
order = np.random.default_rng(0).permutation(len(sentences))
dictionary = itda.fit(embeddings[order], atoms=200, k=4, labels=[sentences[i] for i in order])
print(f"{len(sentences):,} sentences, {dictionary}")

# Any other text is written as a sum of these sentences.
question = "An exception is raised if the list is empty"
code = dictionary.encode(reduce.transform(embed.transform([question])))
print(f"\n{question}")
for atom, coefficient in zip(code.indices[0].tolist(), code.coefficients[0].tolist(), strict=True):
    print(f"  {coefficient:+.2f}  {dictionary.labels[atom].token}")

dictionary.save_pretrained("sentences.itda")
assert len(itda.ITDA.from_pretrained("sentences.itda")) == len(dictionary)
