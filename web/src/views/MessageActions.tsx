import { MenuButton, MenuProvider } from "@ariakit/react";
import { Copy, Ellipsis, Flag, Link, MailOpen, MessagesSquare, Pencil, Reply, SmilePlus, Trash2 } from "lucide-react";
import type { Message } from "../contract.gen.ts";
import { t } from "../i18n.ts";
import { EmojiButton } from "./EmojiPicker.tsx";
import { mayDelete, QUICK, type Tools } from "./tools.ts";
import { IconButton, Item, MenuContent } from "./ui.tsx";

/** The actions on a message: a few buttons, and a menu, which the keyboard's menu key opens too. */
export function MessageActions({
  message,
  moderator,
  tools,
  menu,
  onMenu,
  onPicker,
}: {
  message: Message;
  moderator: boolean;
  tools: Tools;
  menu: boolean;
  onMenu: (open: boolean) => void;
  onPicker: (open: boolean) => void;
}) {
  const editable = message.sender === tools.me && message.state !== "streaming";
  return (
    <div role="toolbar" aria-label={t("Actions")} className="actions">
      {QUICK.map((emoji) => (
        <IconButton
          key={emoji}
          className="quick"
          label={t("React with {emoji}", { emoji })}
          onClick={() => tools.react(message, emoji)}
        >
          {emoji}
        </IconButton>
      ))}
      <EmojiButton
        className="icon-button pick"
        label={t("Add a reaction")}
        icon={<SmilePlus size={17} />}
        onChoose={(emoji) => tools.react(message, emoji)}
        onOpen={onPicker}
      />
      <IconButton label={t("Reply")} keys="R" onClick={() => tools.reply(message)}>
        <Reply size={17} />
      </IconButton>
      {tools.thread !== undefined && (
        <IconButton label={t("Reply in thread")} keys="T" onClick={() => tools.thread?.(message)}>
          <MessagesSquare size={16} />
        </IconButton>
      )}
      {editable && (
        <IconButton label={t("Edit")} keys="E" onClick={() => tools.edit(message)}>
          <Pencil size={16} />
        </IconButton>
      )}
      <MenuProvider open={menu} setOpen={onMenu} placement="bottom-end">
        <MenuButton className="icon-button" aria-label={t("More actions")} data-tip={t("More actions")}>
          <Ellipsis size={17} />
        </MenuButton>
        <MenuContent label={t("More actions")}>
          <Item onClick={() => tools.reply(message)}>
            <Reply size={16} /> {t("Reply")}
          </Item>
          {tools.thread !== undefined && (
            <Item onClick={() => tools.thread?.(message)}>
              <MessagesSquare size={16} /> {t("Reply in thread")}
            </Item>
          )}
          {editable && (
            <Item onClick={() => tools.edit(message)}>
              <Pencil size={16} /> {t("Edit")}
            </Item>
          )}
          <Item onClick={() => tools.copyText(message)}>
            <Copy size={16} /> {t("Copy text")}
          </Item>
          <Item onClick={() => tools.copyLink(message)}>
            <Link size={16} /> {t("Copy link")}
          </Item>
          {tools.markUnread !== undefined && (
            <Item onClick={() => tools.markUnread?.(message)}>
              <MailOpen size={16} /> {t("Mark unread from here")}
            </Item>
          )}
          {message.sender !== tools.me && (
            <Item onClick={() => tools.report(message)}>
              <Flag size={16} /> {t("Report")}
            </Item>
          )}
          {mayDelete(message, tools.me, moderator) && (
            <Item danger onClick={() => tools.remove(message)}>
              <Trash2 size={16} /> {t("Delete")}
            </Item>
          )}
        </MenuContent>
      </MenuProvider>
    </div>
  );
}
