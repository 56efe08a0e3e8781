"""A prompt as a table of pandas: a row for each token and each atom of its code."""

import itda

lm = itda.load_model("tiny")  # a Hub id, a folder, a GGUF file, or your own transformers model and tokenizer
run = itda.train(lm, "python-docs", layers=[4], k=8, atoms=256, tokens=6_000, progress=False)
dictionary = run["layer_4"]

table = itda.decompose(lm, dictionary, "for line in open(path):\n    print(line)").to_pandas()
print(table[["token", "explained", "atom", "coefficient"]].head(8).to_string(index=False))

print("\nThe atoms that the prompt uses most, by the sum of their coefficients' sizes:")
strength = table.assign(strength=table.coefficient.abs()).groupby("atom").strength.agg(["sum", "count"])
for atom, row in strength.sort_values("sum", ascending=False).head(5).iterrows():
    print(f"  {row['sum']:7.0f} at {row['count']:2.0f} tokens  {dictionary.atom(int(atom))}")

print("\nThe tokens that are explained worst:")
print(table.drop_duplicates("position").nsmallest(3, "explained")[["token", "explained"]].to_string(index=False))
table.to_csv("prompt.csv", index=False)
