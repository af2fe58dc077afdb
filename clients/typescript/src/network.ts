/** What a browser says of its network and of the page. Elsewhere nothing is ever said. */

/** Whether there is surely no network. */
export function isOffline(): boolean {
  return globalThis.navigator?.onLine === false;
}

/** Calls `offline` when the network goes; `maybe` when it may have changed, or the page is shown again. Returns a function that ends it. */
export function watchNetwork(offline: () => void, maybe: () => void): () => void {
  const visible = (): void => {
    if (document.visibilityState === "visible") maybe();
  };
  globalThis.addEventListener?.("online", maybe);
  globalThis.addEventListener?.("offline", offline);
  globalThis.addEventListener?.("pageshow", maybe);
  globalThis.document?.addEventListener("visibilitychange", visible);
  return () => {
    globalThis.removeEventListener?.("online", maybe);
    globalThis.removeEventListener?.("offline", offline);
    globalThis.removeEventListener?.("pageshow", maybe);
    globalThis.document?.removeEventListener("visibilitychange", visible);
  };
}
