/** Breaks the page's connection below the SDK, which learns of it as of any other break. */

let isCut = false;
let newest: WebSocket | undefined;

globalThis.WebSocket = class extends WebSocket {
  constructor(address: string | URL, protocols?: string | string[]) {
    super(address, protocols);
    newest = this;
    if (isCut) this.close();
  }
};

/** No connection for `ms`. Messages on their way to the page are dropped: a socket that closes takes nothing more. */
export function cut(ms: number): void {
  isCut = true;
  newest?.close();
  setTimeout(() => (isCut = false), ms);
}
