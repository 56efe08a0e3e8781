"""A model with more or less of an atom: `itda.steer`, and a model without it."""

import itda

lm = itda.load_model("tiny")
run = itda.train(lm, "python-docs", layers=[3], k=8, atoms=256, tokens=6_000, progress=False)
dictionary = run["layer_3"]
prompt = "def read(path):\n    with open(path"

# Which atoms does a text's activations look like?
proposed = itda.steering.proposed_atoms(lm, dictionary, itda.Site(3), "raise ValueError", top=3)
for found in proposed:
    print(f"cosine {found.cosine:.2f}: {dictionary.atom(found.atom)}")

# The same prompt with none, and with more and more, of one of them.
for strength in (0, 4, 16):
    with itda.steer(lm, dictionary, atom=proposed[0].atom, strength=strength):
        print(f"\nstrength {strength}:\n{prompt}{lm.generate(prompt, max_new_tokens=16)}")

# A model that lacks the atoms which this prompt uses most generates, and is evaluated, like any other.
used = [token.atoms[0].atom for token in itda.decompose(lm, dictionary, prompt) if token.atoms]
without = lm.without(dictionary, atoms=sorted(set(used))[:4])
print(f"\nwithout atoms {sorted(set(used))[:4]}:\n{prompt}{without.generate(prompt, max_new_tokens=16)}")
