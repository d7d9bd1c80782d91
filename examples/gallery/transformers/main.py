"""A tiny BERT: the Trainer of Hugging Face on a tiny random model.

Nothing in it knows of mlaas: run it by hand, or by `mlaas run`, and compare
what it prints with what was tracked.
"""
import torch
import transformers

transformers.set_seed(0)
model = transformers.BertForSequenceClassification(
    transformers.BertConfig(vocab_size=40, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, max_position_embeddings=16)
)


class Sentences(torch.utils.data.Dataset):
    """Which half of the words a sentence has more of."""

    def __init__(self, first, count):
        words = torch.randint(0, 40, (count, 12), generator=torch.Generator().manual_seed(first))
        self.rows = [{"input_ids": w, "attention_mask": torch.ones_like(w), "labels": (w < 20).sum() > 6} for w in words]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return dict(self.rows[i], labels=self.rows[i]["labels"].long())


args = transformers.TrainingArguments(
    "checkpoints", num_train_epochs=4, per_device_train_batch_size=32, learning_rate=3e-3, logging_steps=10, report_to=[], save_strategy="no", use_cpu=True, disable_tqdm=True
)
trainer = transformers.Trainer(model, args, train_dataset=Sentences(1, 1600), eval_dataset=Sentences(2, 400))
trainer.train()
result = trainer.evaluate()
print("last loss %.4f" % [line["loss"] for line in trainer.state.log_history if "loss" in line][-1])
print("validation loss %.4f after %d steps" % (result["eval_loss"], trainer.state.global_step))
print("parameters %d" % model.num_parameters())
