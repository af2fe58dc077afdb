/** Handlers of named events. */

/** The handlers of a set of events. Events: names, with the functions that handle each. */
export class Emitter<Events extends Record<keyof Events, (...args: never[]) => void>> {
  readonly #handlers = new Map<keyof Events, Set<Events[keyof Events]>>();

  /** Returns a function that takes the handler off again. */
  add<Name extends keyof Events>(name: Name, handler: Events[Name]): () => void {
    let handlers = this.#handlers.get(name);
    if (!handlers) this.#handlers.set(name, (handlers = new Set()));
    handlers.add(handler);
    return () => void handlers.delete(handler);
  }

  /** Calls the handlers in the order in which they were added. Their errors are reported as unhandled rejections. */
  emit<Name extends keyof Events>(name: Name, ...args: Parameters<Events[Name]>): void {
    for (const handler of [...(this.#handlers.get(name) ?? [])]) {
      try {
        handler(...args);
      } catch (error) {
        void Promise.reject(error); // one handler's error must not keep the event from the others
      }
    }
  }
}
