// @ts-check
import { emptyState, render } from './lib.js';

export const title = 'Metrics';

/** @param {HTMLElement} root @returns {import('./lib.js').View} */
export default function metrics(root) {
  return { update: () => { render(emptyState('Metrics', 'This view is not built yet.'), root); } };
}
