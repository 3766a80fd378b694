//! Templates made safe before they run: an operation that could fill the memory becomes a call that
//! is charged.

use super::limits::refused;
use minijinja::Error;
use minijinja::machinery::{Instruction, Instructions, TemplateConfig, Token, tokenize};

/// The most tokens between `{{` and `}}` or `{%` and `%}`; Qwen3's template has 41.
///
/// The compiler recurses as deep as an expression is long.
const MOST_TOKENS: usize = 256;

/// Functions in the place of operators. A template cannot name them.
pub(super) const CONCAT: &str = "~";
pub(super) const ADD: &str = "+";
pub(super) const LIST: &str = "[]";
pub(super) const MAP: &str = "{}";
pub(super) const HOLD: &str = "=";

/// # Errors
/// For an expression that is too long, and for the operator `*`: the compiler multiplies texts.
pub(super) fn check(source: &str, config: &TemplateConfig) -> Result<(), Error> {
    let mut tokens = 0;
    for token in tokenize(source, false, config.syntax_config.clone(), config.ws_config) {
        match token?.0 {
            Token::VariableStart | Token::BlockStart => tokens = 0,
            Token::Mul => return Err(refused("the operator * is not supported in chat templates")),
            _ => tokens += 1,
        }
        if tokens > MOST_TOKENS {
            return Err(refused(format!("it has an expression of more than {MOST_TOKENS} tokens")));
        }
    }
    Ok(())
}

/// The same instructions with the functions above in the place of operators that make a value from
/// others, and with [`HOLD`] called for every value that a namespace is to hold.
pub(super) fn charged<'source>(code: &Instructions<'source>) -> Instructions<'source> {
    let instructions: Vec<_> = (0..).map_while(|i| Some((i, code.get(i)?))).collect();
    let mut places = Vec::with_capacity(instructions.len() + 1);
    let mut place = 0;
    for (_, instruction) in &instructions {
        places.push(place);
        place += if matches!(instruction, Instruction::SetAttr(_)) { 4 } else { 1 };
    }
    places.push(place);
    let moved = |target: &u32| places[*target as usize];

    let mut charged = Instructions::new(code.name(), code.source());
    for (i, instruction) in instructions {
        let mut add = |instruction| match code.get_line(i) {
            Some(line) => charged.add_with_line(instruction, u16::try_from(line).unwrap_or(u16::MAX)),
            None => charged.add(instruction),
        };
        let instruction = match instruction {
            Instruction::StringConcat => Instruction::CallFunction(CONCAT, Some(2)),
            Instruction::Add => Instruction::CallFunction(ADD, Some(2)),
            Instruction::BuildList(Some(items)) => Instruction::CallFunction(LIST, u16::try_from(*items).ok()),
            Instruction::BuildMap(pairs) => Instruction::CallFunction(MAP, u16::try_from(2 * pairs).ok()),
            Instruction::SetAttr(name) => {
                add(Instruction::Swap);
                add(Instruction::CallFunction(HOLD, Some(1)));
                add(Instruction::Swap);
                Instruction::SetAttr(name)
            }
            Instruction::Jump(target) => Instruction::Jump(moved(target)),
            Instruction::JumpIfFalse(target) => Instruction::JumpIfFalse(moved(target)),
            Instruction::JumpIfFalseOrPop(target) => Instruction::JumpIfFalseOrPop(moved(target)),
            Instruction::JumpIfTrueOrPop(target) => Instruction::JumpIfTrueOrPop(moved(target)),
            Instruction::Iterate(target) => Instruction::Iterate(moved(target)),
            other => other.clone(),
        };
        add(instruction);
    }
    charged
}
