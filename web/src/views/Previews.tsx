import "../styles/previews.css";
import { X } from "lucide-react";
import { useEffect, useSyncExternalStore } from "react";
import { useClient } from "../context.ts";
import type { LinkPreview, Message } from "../contract.gen.ts";
import { t } from "../i18n.ts";
import { previewsOf, withoutPreview } from "../previews.ts";
import { linkTarget } from "./markdown.ts";
import type { Tools } from "./tools.ts";

/** The pages that the links of a message lead to. Their texts are those of other sites. */
export function Previews({ message, tools }: { message: Message; tools: Tools }) {
  const client = useClient();
  const cache = previewsOf(client);
  const previews = useSyncExternalStore(cache.subscribe, () => cache.of(message));
  // biome-ignore lint/correctness/useExhaustiveDependencies: an edit changes its links
  useEffect(() => cache.want(message), [cache, message.id, message.edited_at]);
  const shown = previews.filter(({ url }) => isElsewhere(url));
  if (shown.length === 0) return null;
  const remove = ({ url }: LinkPreview) => tools.setContent(message, withoutPreview(message.content, url));
  return (
    // A screen reader has announced the message with its links.
    <div className="previews" aria-live="off">
      {shown.map((preview) => (
        <div key={preview.url} className="link-preview">
          <div className="site">
            <bdi>{preview.site_name ?? hostOf(preview.url)}</bdi>
            {preview.site_name !== null && <bdi className="host">{hostOf(preview.url)}</bdi>}
          </div>
          <a href={preview.url} dir="auto" target="_blank" rel="noopener noreferrer nofollow">
            {preview.title}
          </a>
          {preview.description !== null && <p dir="auto">{preview.description}</p>}
          {message.sender === tools.me && (
            <button
              type="button"
              className="icon-button"
              aria-label={t("Remove preview")}
              data-tip={t("Remove preview")}
              onClick={() => remove(preview)}
            >
              <X size={16} />
            </button>
          )}
        </div>
      ))}
    </div>
  );
}

function isElsewhere(url: string): boolean {
  return linkTarget(url, window.location.href) !== null && new URL(url).origin !== window.location.origin;
}

function hostOf(url: string): string {
  return new URL(url).host.replace(/^www\./, "");
}
