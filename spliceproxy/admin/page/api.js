// The admin API as this page uses it: JSON over fetch, with the token that was given.

/** The proxy answered, but not with what was asked for. `status` is HTTP's. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Nobody answered, or nothing that this page understands. */
export class Unreachable extends Error {}

const PATIENCE = 10_000;

export class Api {
  /** `access` keeps the token: `token` and `refused(token)`. */
  constructor(access) {
    this.access = access;
  }

  /** The JSON of a GET. `parameters` may have lists as values; what is null or "" is left out. */
  get(path, parameters = {}) {
    return this.#json(path + query(parameters), {});
  }

  /** The JSON of an order, which may take so many milliseconds. */
  post(path, body, patience = PATIENCE) {
    return this.#json(path, {
      signal: AbortSignal.timeout(patience),
      method: "POST",
      body: JSON.stringify(body),
      headers: { "Content-Type": "application/json" },
    });
  }

  /** The body of an endless answer, as a stream of bytes. `signal` ends it. */
  async stream(path, parameters, signal) {
    const response = await this.#send(path + query(parameters), { signal });
    return response.body;
  }

  async #json(path, options) {
    const response = await this.#send(path, { signal: AbortSignal.timeout(PATIENCE), ...options });
    try {
      return await response.json();
    } catch {
      throw new Unreachable("the answer came only in part");
    }
  }

  async #send(path, options) {
    const token = this.access.token;
    const headers = { ...options.headers };
    if (token) headers.Authorization = `Bearer ${token}`;
    let response;
    try {
      response = await fetch(`api/v1/${path}`, { cache: "no-store", ...options, headers });
    } catch {
      throw new Unreachable("no answer");
    }
    if (response.ok) return response;
    const message = await sentence(response);
    // An order that is refused says nothing of the right to read.
    if (response.status === 401 && options.method !== "POST") this.access.refused(token);
    throw new Refused(response.status, message);
  }
}

async function sentence(response) {
  try {
    return (await response.json()).error ?? `status ${response.status}`;
  } catch {
    return `status ${response.status}`;
  }
}

function query(parameters) {
  const found = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    for (const one of [value].flat()) if (one != null && one !== "") found.append(name, one);
  }
  const text = found.toString();
  return text && `?${text}`;
}
