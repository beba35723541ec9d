/** The service worker (sw.ts): registered where the browser has one, so that the page opens without a server. */
interface TrustedPolicies {
  createPolicy(
    name: string,
    rules: { createScriptURL: (url: string) => string },
  ): {
    createScriptURL: (url: string) => string;
  };
}

const SCRIPT = "sw.js";

export async function registerWorker(): Promise<void> {
  if (!("serviceWorker" in navigator) || !import.meta.env.PROD) return;
  const { trustedTypes } = window as unknown as { trustedTypes?: TrustedPolicies };
  // The page's policy (trusted types) allows only script URLs that a policy has created: this one.
  const policy = trustedTypes?.createPolicy("tidings", {
    createScriptURL: (url) => {
      if (url !== SCRIPT) throw new TypeError("not the service worker");
      return url;
    },
  });
  const registration = await navigator.serviceWorker.register(policy?.createScriptURL(SCRIPT) ?? SCRIPT);
  // The page may be newer than the stored files, with the same worker.
  registration.active?.postMessage("refresh");
}
