"""Mixup (Zhang et al., ICLR 2018): a network trained on mixtures of two films."""

import jax

from cxrjax.training import steps


def init(config, rng, batch):
    return {"mixup": steps.create_state(config, rng, batch)}


def make_step(config):
    loss_fn = steps.make_loss(config)

    def step(states, batch, rng):
        keys = jax.random.split(steps.step_key(rng, states["mixup"].step), 3)
        batch = steps.prepare_train(config, keys[0], batch)
        share = jax.random.beta(keys[1], config.scheme.alpha, config.scheme.alpha)
        mixed = {k: share * batch[k] + (1 - share) * batch[k][::-1] for k in ("image", "label")}
        state, logs = steps.update(states["mixup"], {**batch, **mixed}, keys[2], loss_fn)
        return {"mixup": state}, logs

    return step


def make_models(config):
    return {"mixup": steps.make_model(config, dict(config.model))}


def make_predict(config):
    model = make_models(config)["mixup"]

    def predict(states, image):
        image = steps.prepare_eval(config, image)
        return {"mixup": steps.forward_eval(model, states["mixup"], image)}

    return predict
