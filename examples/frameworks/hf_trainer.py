"""Hugging Face transformers: its Trainer with `report_to="tensorboard"`, unchanged; a tiny BERT and sentences made here.

    pip install transformers accelerate tensorboard
    TRACELET_BACKEND=mlflow,trackio python examples/frameworks/hf_trainer.py

What arrives: one run with `train/loss`, `train/grad_norm`, `train/learning_rate`, `eval/loss` and the rest that the Trainer logs,
by global step, and the texts `args` and `model_config`, whose values are the run's parameters, too (`learning_rate`,
`model/hidden_size`).
"""

import os

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments, set_seed

set_seed(0)
torch.set_num_threads(1)
os.environ.setdefault("TENSORBOARD_LOGGING_DIR", "runs/hf_trainer")  # transformers 5; before, it is an argument, logging_dir

words = torch.randint(0, 32, (256, 8))
labels = (words > 15).sum(1).gt(4).long()
sentences = [{"input_ids": row, "labels": label} for row, label in zip(words, labels, strict=True)]

config = BertConfig(
    vocab_size=32,
    hidden_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=64,
    max_position_embeddings=8,
)
arguments = TrainingArguments(
    output_dir="runs/hf_trainer",
    report_to="tensorboard",
    num_train_epochs=3,
    per_device_train_batch_size=16,
    learning_rate=3e-3,
    logging_steps=4,
    eval_strategy="epoch",
    save_strategy="no",
    use_cpu=True,
    disable_tqdm=True,
)
model = BertForSequenceClassification(config)
trainer = Trainer(model=model, args=arguments, train_dataset=sentences[:192], eval_dataset=sentences[192:])
trainer.train()
