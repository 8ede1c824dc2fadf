// When to ask again: one round at a time, less often while nobody looks or nobody answers.

const INTERVAL = 2000;
const HIDDEN_INTERVAL = 30_000;
const LONGEST_PAUSE = 20_000;

export class Poller {
  /** `round()` asks and shows; what it throws is told to `onFailure(error, pause)`, in ms. */
  constructor(round, onFailure) {
    this.round = round;
    this.onFailure = onFailure;
    this.paused = false;
    this.failures = 0;
    this.timer = 0;
    this.running = false;
    this.asked = false;
    document.addEventListener("visibilitychange", () => this.now());
  }

  /** Begin a round now, or right after the one that runs. While paused nothing is begun. */
  now() {
    this.asked = true;
    this.#next(0);
  }

  /** Stop asking, or go on. */
  pause(paused) {
    this.paused = paused;
    if (paused) clearTimeout(this.timer);
    else this.now();
  }

  #next(pause) {
    clearTimeout(this.timer);
    if (!this.paused && !this.running) this.timer = setTimeout(() => this.#run(), pause);
  }

  async #run() {
    this.running = true;
    this.asked = false;
    let pause = document.hidden ? HIDDEN_INTERVAL : INTERVAL;
    try {
      await this.round();
      this.failures = 0;
    } catch (error) {
      this.failures += 1;
      pause = Math.max(pause, Math.min(1000 * 2 ** this.failures, LONGEST_PAUSE));
      this.onFailure(error, pause);
    }
    this.running = false;
    this.#next(this.asked ? 0 : pause);
  }
}
