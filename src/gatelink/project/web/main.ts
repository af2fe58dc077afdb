/** The page: what is said, and a line to say. `make page` builds page.js of it. */

import { Client, deviceId, LoginService } from "gatelink";
import { Said, Say } from "./messages.ts";

const element = <T extends HTMLElement>(id: string): T => document.getElementById(id) as T;
const line = element<HTMLInputElement>("line");
const { login } = (await (await fetch("gatelink.json")).json()) as { login?: string };
const client = login ? guest(new LoginService(login)) : stranger();

/** A player with an account at the login service. Each tab is a player of its own. */
function guest(service: LoginService): Client {
  const device = deviceId("device", sessionStorage);
  return new Client({ login: () => service.guest(device), servers: () => service.servers() });
}

/** A player of the server in one process, which takes any uid with the token that belongs to it. */
function stranger(): Client {
  const uid = BigInt(crypto.getRandomValues(new Uint32Array(1))[0]!);
  return new Client({ address: `ws://${location.hostname}:7800`, uid, getToken: async () => String(uid).padStart(32, "0") });
}

client.on(Said, (said) => {
  const entry = document.createElement("li");
  entry.textContent = `${said.uid === client.uid ? "you" : said.uid}: ${said.text}`;
  element("said").append(entry);
});

client.on("state", (state, reason) => {
  element("state").textContent = state === "connected" ? state : `${state}: ${reason.text}`;
});

element("form").addEventListener("submit", (event) => {
  event.preventDefault();
  client.send(Say({ text: line.value }));
  line.value = "";
});

element("cut").addEventListener("click", () => {
  client.suspend();
  setTimeout(() => client.wake(), 3_000);
});

await client.connect();
