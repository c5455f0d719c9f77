/** The screen that is shown, as the address says. */
import { type Route, readRoute, writeRoute } from './route.js';

class Router {
  #route: Route = $state.raw(readRoute(location.hash));

  constructor() {
    addEventListener('hashchange', () => this.reread());
  }

  get route(): Route {
    return this.#route;
  }

  /** Reads the address again after it was replaced. */
  reread(): void {
    this.#route = readRoute(location.hash);
  }

  /** Shows another screen. */
  go(path: readonly string[], query: Readonly<Record<string, string | undefined>> = {}): void {
    location.hash = writeRoute(path, query);
  }

  /** Changes words of the query of this screen, without a new entry in the history. */
  query(change: Readonly<Record<string, string | undefined>>): void {
    const query = { ...Object.fromEntries(this.#route.query), ...change };
    history.replaceState(null, '', writeRoute(this.#route.path, query));
    this.reread();
  }
}

export const router = new Router();
